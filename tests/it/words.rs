//! The words of the model, as the ledger has them.

use xtwebhooks::model::DeliveryStatus;

use crate::support::app::App;

#[tokio::test]
async fn a_word_that_is_unknown_is_an_error_that_names_it() {
    let app = App::new().await;
    let read =
        async |sql: &'static str| sqlx::query_scalar::<_, DeliveryStatus>(sql).fetch_one(&app.pool).await;
    assert_eq!(read("select 'dead'::text").await.expect("it is known"), DeliveryStatus::Dead);
    let error = read("select 'undead'::text as status").await.expect_err("it is not known").to_string();
    assert!(error.contains("`undead`"), "{error}");
}
