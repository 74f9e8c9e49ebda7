// Verbs that ask only where bytes are (`extents`, `table`, `check`) need no ring. They walk the
// chain one extent at a time, and tables that are missing are read on the spot.
public import DiskTypes
public import ImageChain
import LinuxIO

/// Walks the extents of a range of a chain, in order and merged as far as they continue one another.
///
///     var walker = ExtentWalker(chain, from: GuestOffset(0), length: chain.size)
///     while let step = walker.next() {
///         switch step {
///         case .extent(let extent): ...
///         case .damaged(let damage): ...
///         }
///     }
public struct ExtentWalker {
    /// What the walk found next. Steps lie end to end: together they cover the range.
    public enum Step: Equatable, Sendable {
        /// A range of one kind, with its place in a file where it has one.
        case extent(Extent)
        /// A range whose mapping is damaged.
        case damaged(MapDamage)

        /// Where the step begins on the disk.
        public var guest: GuestOffset {
            switch self {
            case .extent(let extent): extent.guest
            case .damaged(let damage): damage.guest
            }
        }
        /// Bytes of the disk that it covers.
        public var length: UInt64 {
            switch self {
            case .extent(let extent): extent.length
            case .damaged(let damage): damage.length
            }
        }
    }

    private let chain: ImageChain
    private var cursor: UInt64
    private let end: UInt64
    /// Found while looking how far the step before it goes.
    private var ahead: Step?

    /// A walk over `length` bytes from `from`, clipped to the disk.
    public init(_ chain: ImageChain, from: GuestOffset = GuestOffset(0), length: UInt64 = .max) {
        self.chain = chain
        cursor = min(from.bytes, chain.size)
        end = cursor + min(length, chain.size - cursor)
    }

    /// The next step; nil at the end of the range.
    public mutating func next() -> Step? {
        guard let first = ahead ?? look() else { return nil }
        ahead = nil
        guard case .extent(var extent) = first else { return first }
        while let step = look() {
            guard case .extent(let more) = step, extent.continues(into: more) else {
                ahead = step
                break
            }
            extent.length += more.length
        }
        return .extent(extent)
    }

    /// One answer of the chain at the cursor, which moves past it.
    private mutating func look() -> Step? {
        guard cursor < end else { return nil }
        let step = ExtentWalker.lookup(chain, GuestOffset(cursor), length: end - cursor)
        // Never beyond the range, never without progress, whatever a map says.
        cursor += min(max(step.length, 1), end - cursor)
        return step
    }

    /// Where `length` (> 0) bytes at `guest` begin: one answer, as `ImageChain.lookup` gives it, with the tables it
    /// needs read on the spot. A table that cannot be read is damage.
    public static func lookup(_ chain: ImageChain, _ guest: GuestOffset, length: UInt64) -> Step {
        for _ in 0..<4096 {
            switch chain.lookup(guest, length: length) {
            case .extent(let extent): return .extent(extent)
            case .damaged(let damage): return .damaged(damage)
            case .needs(let table):
                guard read(table, of: chain) else { return .damaged(unreadable(table, guest, length)) }
            }
        }
        // Thrown out by others each time before it could be used: the cache is too small for one look.
        return .damaged(
            MapDamage(reason: .tableUnreadable, guest: guest, length: length, table: HostOffset(0)))
    }

    private static func read(_ table: TableRead, of chain: ImageChain) -> Bool {
        guard Int(table.file) < chain.files.count, table.length > 0, table.length <= 64 << 20 else { return false }
        do throws(ImageError) {
            let bytes = try chain.files[Int(table.file)].read(at: table.host, count: Int(table.length))
            unsafe bytes.withUnsafeBytes { unsafe chain.supply(table, $0) }
            return true
        } catch {
            return false
        }
    }

    private static func unreadable(_ table: TableRead, _ guest: GuestOffset, _ length: UInt64) -> MapDamage {
        MapDamage(reason: .tableUnreadable, layer: table.layer, guest: guest, length: length, table: table.host)
    }
}
