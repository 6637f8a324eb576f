"""The demonstration, and the throw-away local servers that it shares with the tests."""
