"""
Reports as one HTML page: it holds all that it needs, asks the network for nothing and opens from disk.

A page is made from a `Report` alone. Its plots are Plotly's, drawn in the browser; all else is plain HTML,
readable without scripts. The same report gives the same bytes.
"""

from neurocompile.page.comparison import write_comparison
from neurocompile.page.document import need_plotly
from neurocompile.page.report_page import write_page

__all__ = ["need_plotly", "write_comparison", "write_page"]
