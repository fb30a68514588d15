"""Sources: the module's name is the connector's."""
