"""Code that runs inside Triton's Python stub, where this project is not importable.

A package only so that its files are installed and type-checked. The embedded server copies them into its private
backend directory; they import each other as siblings there.
"""
