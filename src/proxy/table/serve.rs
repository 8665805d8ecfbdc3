//! Dispatch of one call.

use std::rc::Rc;

use crate::proxy::key::LogPrefix;
use crate::rpc::{Answer, Call, OperationResponse, Reply, Status};
use crate::service::Shutdown;

use super::state::Table;

impl Table {
    /// Serves one call. Dropping the future cancels it: a Setup is rolled back, a Teardown goes on
    /// by itself. When `closing` resolves, a Setup has to come to an end, and a wait for outcomes
    /// ends.
    pub(crate) async fn serve(
        self: Rc<Self>,
        call: Call,
        closing: Shutdown,
    ) -> Result<Answer, Status> {
        // The call may be about a lease that is being adopted.
        self.adoption.ended().await;
        let reply = match call {
            Call::Setup(config) => {
                let prefix = LogPrefix::of_call(&config).to_string();
                let made = self.setup(config, closing).await;
                if let Err(error) = &made {
                    error.log(&prefix, "Setup");
                    // The file still has the record of the Setup.
                    self.persist().await;
                }
                Reply::Lease(made?)
            }
            Call::Teardown(config) => Reply::Lease(self.teardown(&config).await),
            Call::Clean => {
                self.end_all().await;
                Reply::Operation(OperationResponse {
                    success: !self.is_save_failing(),
                })
            }
            Call::Renew(selection) => Reply::Outcomes(self.renew_now(selection, closing).await?),
            Call::Release(selection) => {
                Reply::Outcomes(self.release_now(selection, closing).await?)
            }
        };
        let warning = self.save.error.borrow().clone();
        Ok(Answer { reply, warning })
    }
}
