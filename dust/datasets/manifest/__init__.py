"""Lists of clips and labels: from a csv, folders, or another project's annotation files."""
