"""What services install to publish usage events."""
