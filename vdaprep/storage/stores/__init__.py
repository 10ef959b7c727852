"""Object stores: `objects` asks them, `remote_output` is the folder in one that a conversion writes into."""
