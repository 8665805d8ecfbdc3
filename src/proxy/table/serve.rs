//! One call to the daemon.

use std::rc::Rc;

use crate::rpc::{Answer, Call, OperationResponse, Reply, Status};
use crate::service::Shutdown;

use super::state::Table;

impl Table {
    /// Serves one call. Dropping the future cancels it: a Setup leaves nothing behind, a Teardown
    /// goes on alone. When `closing` resolves, a Setup has to come to an end.
    pub(crate) async fn serve(
        self: Rc<Self>,
        call: Call,
        closing: Shutdown,
    ) -> Result<Answer, Status> {
        // It may be about one of them.
        self.adoption.is_over().await;
        let reply = match call {
            Call::Setup(config) => {
                let made = self.setup(config, closing).await;
                if let Err(error) = &made {
                    error.log("Setup");
                    // That there is nothing left of it.
                    self.persist().await;
                }
                Reply::Lease(made?)
            }
            Call::Teardown(config) => Reply::Lease(self.teardown(&config).await),
            Call::Clean => {
                self.end_all().await;
                Reply::Operation(OperationResponse {
                    success: !self.is_in_trouble(),
                })
            }
        };
        let warning = self.save.trouble.borrow().clone();
        Ok(Answer { reply, warning })
    }
}
