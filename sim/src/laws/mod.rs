//! What must hold, one file each. A law looks at what clients were told and at what the fabric holds.

pub mod copies;
pub mod counts;
pub mod fsck;
pub mod gone;
pub mod linearizable;
pub mod namespace;
pub mod readable;
pub mod replicas;
pub mod whole;
