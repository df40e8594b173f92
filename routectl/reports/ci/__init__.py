"""The report of ci, and its voices for JUnit, GitHub and dashboards."""
