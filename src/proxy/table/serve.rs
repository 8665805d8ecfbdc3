//! Dispatch of one call.

use std::rc::Rc;

use crate::dhcp::AcquireError;
use crate::proxy::error::CallError;
use crate::proxy::key::LogPrefix;
use crate::proxy::session::SessionContext;
use crate::proxy::store::counters::{Counter, FailureReason};
use crate::rpc::{Answer, Call, Code, OperationResponse, Reply, Status};
use crate::service::Shutdown;

use super::state::Table;

impl Table {
    /// Serves one call. Dropping the future cancels it: a Setup is rolled back, a Teardown goes on
    /// by itself. When `closing` resolves, a Setup has to come to an end.
    pub(crate) async fn serve(
        self: Rc<Self>,
        call: Call,
        closing: Shutdown,
    ) -> Result<Answer, Status> {
        let answered = CountedCall::of(&self.context);
        let outcome = self.answer(call, closing).await;
        answered.end(
            outcome
                .as_ref()
                .err()
                .map_or(Code::Ok, |status| status.code),
        );
        outcome
    }

    async fn answer(self: Rc<Self>, call: Call, closing: Shutdown) -> Result<Answer, Status> {
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
        };
        let warning = self.save.error.borrow().clone();
        Ok(Answer { reply, warning })
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

/// A call that is counted once: by its status, or as cancelled where it is dropped.
struct CountedCall {
    context: Rc<SessionContext>,
    code: Code,
}

impl CountedCall {
    fn of(context: &Rc<SessionContext>) -> Self {
        Self {
            context: Rc::clone(context),
            code: Code::Cancelled,
        }
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.context.count(Counter::Call(self.code));
    }
}
