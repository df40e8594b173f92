"""The reports of pack and of its verification; a layout drawn."""
