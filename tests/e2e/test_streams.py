"""What else there is to read where a source reads, asked of a server."""

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.serving import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("streams") / "data") as running:
        yield running


def test_tables_and_views_are_listed_with_their_keys(server, fresh_database):
    with psycopg.connect(fresh_database, autocommit=True) as con:
        con.execute("create table orders (id int, line int, v text, primary key (id, line))")
        con.execute("insert into orders select n, 1, 'x' from generate_series(1, 500) n")
        con.execute("create view seen as select id from orders")
        con.execute("analyze")
    source = server.client.add(
        "sources", type="postgresql", name="s", input={"url": fresh_database, "table": "orders"}
    )
    page = server.client.call("GET", f"/v1/sources/{source['id']}/streams")
    found = {one["name"]: one for one in page["items"]}
    assert page["total"] == len(found) == 2
    assert (found["orders"]["kind"], found["orders"]["key"]) == ("table", ["id", "line"])
    assert (found["orders"]["rows"], found["seen"]["kind"]) == (500, "view")
    assert found["orders"]["bytes"] > 0


def test_what_cannot_tell_says_so(server):
    (server.data_dir / "files/a.csv").write_text("id\n1\n")
    url = f"file://{server.data_dir}/files/a.csv"
    source = server.client.add("sources", type="csv", name="s", input={"url": url})
    for id_, said in ((source["id"], "cannot tell"), ("nothing", "cannot find source")):
        with pytest.raises(HeadraceError, match=said):
            server.client.call("GET", f"/v1/sources/{id_}/streams")


def test_a_database_that_is_away_is_told(server):
    away = {"url": "postgresql://nobody:x@127.0.0.1:9/none", "table": "t"}
    source = server.client.add("sources", type="postgresql", name="s", input=away)
    with pytest.raises(HeadraceError) as error:
        server.client.call("GET", f"/v1/sources/{source['id']}/streams")
    assert error.value.status == 503
