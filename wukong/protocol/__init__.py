"""The wire format of clients, pure: bytes to packets and back, no socket, no clock, no chance."""
