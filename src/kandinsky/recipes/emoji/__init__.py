"""What only the embedded checkpoint needs: its vocabulary, colours of things, and what it is measured by."""
