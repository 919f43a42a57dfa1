"""The experiments of the book, a folder for each chapter; the registry finds them."""
