"""The sandbox: what lies in it, what runs in it, and its walls."""
