from emulation.fixtures import library, library_path

__all__ = ["library", "library_path"]
