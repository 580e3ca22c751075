//! Who may do what: one verdict, asked for every request.
