//! The component of [`hostile::Hostile`], version 1.
slotd_guest::export!(hostile::Hostile<1>);
