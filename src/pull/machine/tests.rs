//! Every transition of the state machine.
