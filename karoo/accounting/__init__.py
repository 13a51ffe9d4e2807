"""What each worker did: counted here, kept in an SQLite file, told to people."""
