//! `forkscope bench`: what fork costs on this machine, measured with the bundled generator and
//! the tracer, each in a process of its own.
//!
//! An [`Experiment`] runs the generator through a [`Lab`] and returns an [`Outcome`]: typed
//! rows, figures by name, a plot and a verdict of one line. It prints nothing: `text`, `plot`
//! and `page` show outcomes, `claims` judges textbook sentences by their figures.

pub mod experiments;
pub mod lab;
pub mod outcome;

pub use self::experiments::{ALL, Experiment};
pub use self::lab::{Lab, Traced};
pub use self::outcome::{Axis, Cell, Column, Outcome, Plot, Series, Unit};
