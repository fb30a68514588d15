"""The mailer: sends what is kept to be told by mail, and tries again what could not be sent.

A mail is forgotten after the mail server has taken it: a kill just between sends it twice, never
not at all.
"""

import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final
from urllib.parse import unquote, urlsplit

from headrace.observe.log import logger
from headrace.settings import Settings
from headrace.store import mails
from headrace.store.database import Database

TIMEOUT_S: Final = 30.0
AT_ONCE: Final = 20
AGAIN_MS: Final = 120_000  # another server may try a mail that this one has taken, after so long
BACKOFF_MS: Final = 5_000
BACKOFF_MAX_MS: Final = 3_600_000
GIVE_UP_MS: Final = 3 * 86_400_000
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
PORTS: Final = {"smtp": 25, "smtps": 465}


class Mailer:
    """Sends mails through the server that HEADRACE_SMTP names."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def send(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Send the mails whose time has come."""
        with self._database.begin() as tx:
            due = mails.due(tx, AT_ONCE, AGAIN_MS)
        for mail in due:
            if not stopped():
                self._send(mail)

    def _send(self, mail: mails.Mail) -> None:
        try:
            self._deliver(mail)
        except (OSError, smtplib.SMTPException) as error:
            with self._database.begin() as tx:
                if tx.now - mail.at > GIVE_UP_MS:
                    mails.drop(tx, mail.id)
                    logger().error("mail given up", subject=mail.subject, error=str(error))
                    return
                wait_ms = min(BACKOFF_MS << min(mail.tries - 1, 20), BACKOFF_MAX_MS)
                mails.put_off(tx, mail.id, wait_ms)
            logger().warning("mail not sent", subject=mail.subject, error=str(error))
        else:
            with self._database.begin() as tx:
                mails.drop(tx, mail.id)

    def _deliver(self, mail: mails.Mail) -> None:
        settings = self._settings
        message = EmailMessage()
        message["Subject"] = mail.subject
        message["From"] = settings.mail_from
        message["To"] = ", ".join(settings.mail_to)
        message["Date"] = formatdate(mail.at / 1000)
        message["Message-ID"] = make_msgid(mail.id, "headrace")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.body)
        parts = urlsplit(settings.smtp)
        port = parts.port or PORTS[parts.scheme]
        sealed = parts.scheme == "smtps"
        host, context = parts.hostname or "", ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
            if sealed
            else smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        ) as server:
            server.ehlo_or_helo_if_needed()
            if not sealed and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif not sealed and parts.username and host not in LOOPBACK:
                raise smtplib.SMTPException("it has no STARTTLS: no password is sent in the open")
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)
