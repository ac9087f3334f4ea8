//! How far prefills have come, and what is kept of their rows.

mod cursor;
mod rows;

pub(crate) use cursor::{Cursor, Position, Why};
pub(crate) use rows::{let_rows_go, rows_are_settled, rows_gone};
