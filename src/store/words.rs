//! The words of the model as columns of text. An unknown word is an error that names it and its column.

use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
};

use crate::model::{
    DeliveryStatus, OutcomeClass, Trigger,
    dead_letter::{DeadLetterKind, DeadLetterStatus},
    operational::TransitionKind,
    replay::{ReplayKind, ReplayStatus},
};

macro_rules! columns {
    ($($type:ty),+) => {$(
        impl Type<Postgres> for $type {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }

            fn compatible(column: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(column)
            }
        }

        impl<'r> Decode<'r, Postgres> for $type {
            fn decode(column: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(<&str as Decode<Postgres>>::decode(column)?.parse()?)
            }
        }
    )+};
}

columns!(
    DeliveryStatus,
    Trigger,
    OutcomeClass,
    DeadLetterKind,
    DeadLetterStatus,
    ReplayKind,
    ReplayStatus,
    TransitionKind
);
