//! What should change in a site, given how it is and who is there.
