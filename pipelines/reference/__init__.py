"""The reference pages of docs/reference, made from the schemas and the command's parser."""
