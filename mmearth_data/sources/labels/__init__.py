"""Labels of locations: columns of a user's table, and the file that describes them."""
