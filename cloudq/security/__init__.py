"""Keys, signatures and encryption: who wrote this, and who may read it."""
