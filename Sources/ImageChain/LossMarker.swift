// Why this file exists: a server that is killed takes along what was answered and not flushed. Its successor has to know, or
// it would answer the guest's next flush as if nothing were missing.

import Synchronization

/// One word of memory that outlives the process, and what keeps it mapped.
public struct LossMarker: @unchecked Sendable {
    private let word: UnsafeMutablePointer<Atomic<UInt32>>
    private let keeper: AnyObject

    /// `place`: 4 aligned bytes, mapped as long as `keeper` lives.
    public init(_ place: UnsafeMutableRawPointer, keeping keeper: AnyObject) {
        word = place.assumingMemoryBound(to: Atomic<UInt32>.self)
        self.keeper = keeper
    }

    var isSet: Bool { word.pointee.load(ordering: .acquiring) != 0 }
    func set(_ isLossy: Bool) { word.pointee.store(isLossy ? 1 : 0, ordering: .releasing) }
}
