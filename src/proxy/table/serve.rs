//! Dispatch of one call.

use std::rc::Rc;

use crate::dhcp::AcquireError;
use crate::proxy::error::CallError;
use crate::proxy::key::LogPrefix;
use crate::proxy::store::counters::{Counter, FailureReason};
use crate::rpc::{Answer, Call, Code, OperationResponse, Reply, Status};
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
                    if let Some(reason) = failure(error) {
                        self.context.count(Counter::Failure(reason));
                    }
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
            // Boxed, so that the future of a Setup is not as large as theirs.
            Call::Renew(selection) => {
                Reply::Outcomes(Box::pin(self.renew_now(selection, closing)).await?)
            }
            Call::Release(selection) => {
                Reply::Outcomes(Box::pin(self.release_now(selection, closing)).await?)
            }
        };
        let warning = self.save.error.borrow().clone();
        Ok(Answer { reply, warning })
    }

    /// Counts a call that has ended.
    pub(crate) fn count_call(&self, code: Code) {
        self.context.count(Counter::Call(code));
    }
}

/// Returns the reason of a failed Setup, `None` where neither network nor host is at fault.
fn failure(error: &CallError) -> Option<FailureReason> {
    Some(match error {
        CallError::NoAnswer { why, .. } => match why {
            AcquireError::NoCarrier => FailureReason::NoCarrier,
            AcquireError::NoOffer { .. } => FailureReason::NoOffer,
            AcquireError::UnusableOffer { .. } => FailureReason::UnusableOffer,
            AcquireError::NoAck { .. } => FailureReason::NoAck,
            AcquireError::Refused { .. } => FailureReason::Refused,
            AcquireError::InUse { .. } => FailureReason::Conflict,
        },
        CallError::LinkDown(_) => FailureReason::NoCarrier,
        CallError::Fault { .. } => FailureReason::Kernel,
        CallError::BadRequest(_) | CallError::Stopping => return None,
        CallError::Vanished(_) | CallError::Superseded => return None,
    })
}
