//! Whole nodes within the process, over disks that fail when they are told to.

mod workers;
mod site;
mod trial;
mod faults;
mod together;
