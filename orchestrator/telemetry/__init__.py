"""What hosts and devices tell of themselves; the only importer of pynvml and psutil, and of the powercap files."""
