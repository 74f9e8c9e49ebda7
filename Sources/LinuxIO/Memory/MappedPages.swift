// What of a window the data path needs, as plain bytes: a base, a bitmap, and the copy out of it.
import CQblk
import Glibc
public import Synchronization

/// A window as the data path sees it: no counted references. `.none` holds nothing.
@safe @frozen public struct MappedPages: BitwiseCopyable {
    /// Bytes of a page. Where the system has others there is no window.
    public static let size = 4096
    @usableFromInline static let shift = 12
    @usableFromInline static let mask: UInt64 = 4095

    @usableFromInline let start: UnsafeMutableRawPointer?
    @usableFromInline let known: UnsafeMutablePointer<Atomic<UInt64>>?
    /// Bytes; 0: there is no window.
    public let count: UInt64

    /// No window.
    public static var none: MappedPages { MappedPages() }
    private init() { unsafe (start, known, count) = (nil, nil, 0) }
    init(base: UnsafeMutableRawPointer, known: UnsafeMutablePointer<Atomic<UInt64>>, count: UInt64) {
        unsafe (start, self.known, self.count) = unsafe (base, known, count)
    }

    /// Where the file's first byte is. Only with a window.
    @inlinable @inline(__always) public var base: UnsafeMutableRawPointer { unsafe start.unsafelyUnwrapped }

    /// There is a window.
    @inlinable @inline(__always) public var isThere: Bool { count != 0 }

    @inlinable @inline(__always) func contains(_ offset: UInt64, _ length: Int) -> Bool {
        length > 0 && offset < count && UInt64(truncatingIfNeeded: length) <= count &- offset
    }

    /// Whether all pages of the bytes were in memory when last seen.
    @inlinable @inline(__always) public func holds(_ offset: UInt64, _ length: Int) -> Bool {
        guard contains(offset, length), let known = unsafe known else { return false }
        var page = offset >> UInt64(MappedPages.shift)
        let end = (offset &+ UInt64(truncatingIfNeeded: length) &+ MappedPages.mask) >> UInt64(MappedPages.shift)
        while page < end {
            let first = page & 63
            let number = min(64 &- first, end &- page)
            let wanted = (number == 64 ? ~0 : (1 &<< number) &- 1) &<< first
            guard unsafe known[Int(truncatingIfNeeded: page >> 6)].load(ordering: .relaxed) & wanted == wanted else {
                return false
            }
            page &+= number
        }
        return true
    }

    /// Brings the bytes' pages into memory and into the mapping, those of holes, too, to be written. False: not all. The
    /// window must reach as far as the bytes do.
    public func populate(_ offset: UInt64, _ length: Int) -> Bool {
        let inPage = Int(truncatingIfNeeded: offset & MappedPages.mask)
        let start = unsafe base + (Int(truncatingIfNeeded: offset) &- inPage)
        return unsafe madvise(start, inPage &+ length, MADV_POPULATE_WRITE) == 0
    }

    func add(_ page: UInt64) {
        unsafe known.unsafelyUnwrapped[Int(page >> 6)].bitwiseOr(1 << (page & 63), ordering: .relaxed)
    }
    func remove(_ first: UInt64, through last: UInt64) {
        var page = first
        while page <= last {
            let bit = page & 63
            let number = min(64 - bit, last - page + 1)
            let gone = (number == 64 ? ~0 : (UInt64(1) << number) - 1) << bit
            unsafe known.unsafelyUnwrapped[Int(page >> 6)].bitwiseAnd(~gone, ordering: .relaxed)
            page += number
        }
    }

    /// Copies bytes of the file out. False: the file does not have them any more, or its disk does not. Where the file was
    /// cut inside the last of their pages, see `PageCopy.endsInZero`.
    public func copy(_ offset: UInt64, to memory: UnsafeMutableRawPointer, _ length: Int) -> Bool {
        var one = unsafe PageCopy(from: self, offset, to: memory, length)
        return unsafe PageCopy.run(&one, 1) == 1
    }
}

/// Bytes on their way out of a window.
@safe public struct PageCopy: BitwiseCopyable {
    private var copy: qb_copy

    /// The window must reach as far as the bytes do.
    @inline(__always)
    public init(from pages: MappedPages, _ offset: UInt64, to memory: UnsafeMutableRawPointer, _ length: Int) {
        unsafe copy = unsafe qb_copy(to: memory, from: pages.base + Int(truncatingIfNeeded: offset), count: length)
    }
    /// No copy: a place in a list.
    public init() { unsafe copy = unsafe qb_copy(to: nil, from: nil, count: 0) }

    /// Whether the last byte of the copy is 0. The kernel fills the rest of the page in which a file is cut with zeros and
    /// raises no signal there; so bytes that the file has lost end in 0, and only then it need be asked for its length.
    @inlinable @inline(__always) public var endsInZero: Bool { endsIn == 0 }
    @usableFromInline var endsIn: UInt8 {
        unsafe copy.to.unsafelyUnwrapped.load(fromByteOffset: copy.count &- 1, as: UInt8.self)
    }

    /// The position in the file behind the bytes, of a copy out of `pages`.
    public func end(in pages: MappedPages) -> UInt64 {
        unsafe UInt64(truncatingIfNeeded: copy.from.unsafelyUnwrapped - UnsafeRawPointer(pages.base) &+ copy.count)
    }

    /// Does `count` copies; how many are done before one whose bytes the file does not have any more.
    @inline(__always)
    public static func run(_ copies: UnsafeMutablePointer<PageCopy>, _ count: Int) -> Int {
        unsafe copies.withMemoryRebound(to: qb_copy.self, capacity: count) { unsafe qb_copy_mapped($0, count) }
    }
}
