"""nbgrader's side: gradebook, what is handed back, and guards for its pages and archives."""
