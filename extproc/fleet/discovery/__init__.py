"""Where the list of workers comes from. Sources know nothing of each other, of health or of slots."""
