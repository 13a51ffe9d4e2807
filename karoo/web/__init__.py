"""What operators see, over the proxy's snapshot."""
