"""What a person gives: images and texts, checked and named, with their sources."""
