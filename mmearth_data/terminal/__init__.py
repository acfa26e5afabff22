"""What both command lines share: groups of commands, types of options, streams."""
