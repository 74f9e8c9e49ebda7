// A ring is shared by its owner and by engines, and an engine has several kinds of entries on it. The user data of an
// entry says what its completion belongs to.

/// What a completion belongs to, in the engine's half of the `user_data` space (bit 63 set).
enum CompletionTag {
    static let engine: UInt64 = 1 << 63
    static let transfer: UInt64 = engine
    static let table: UInt64 = engine | 1 << 60
    static let cluster: UInt64 = engine | 2 << 60
    static let sync: UInt64 = engine | 3 << 60
    static let wakeup: UInt64 = engine | 4 << 60
    static let kinds: UInt64 = engine | 7 << 60
    /// Several engines share a ring: bits 32 to 47 say whose.
    static let numberShift: UInt64 = 32

    @inline(__always) static func index(_ userData: UInt64) -> Int32 {
        Int32(truncatingIfNeeded: userData)
    }
}
