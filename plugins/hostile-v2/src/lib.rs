//! The component of [`hostile::Hostile`], version 2.
slotd_guest::export!(hostile::Hostile<2>);
