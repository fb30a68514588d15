"""What a connector is: its spec, what a source gives, what a load does, what it is handed."""
