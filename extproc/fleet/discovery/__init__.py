"""Where the lists of workers and models come from. Sources know nothing of each other, of health or of slots."""
