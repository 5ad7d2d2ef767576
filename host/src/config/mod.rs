//! What the user wants, typed and checked. Front ends (the YAML file, kube-token-refresher's settings) turn text into a
//! [`model::Config`] or into a list of mistakes, each with its place; the rest of the program only sees the model.

pub mod model;
pub mod origin;
