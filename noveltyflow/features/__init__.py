"""Texts to sparse rows: hashed n-gram counts, document frequency, tf-idf weights."""
