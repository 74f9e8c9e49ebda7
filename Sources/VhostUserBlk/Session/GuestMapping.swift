// Maps the files that a front-end sends: guest memory and other shared areas. A region is used only as far as its file
// reaches, and stays mapped until no thread can access it.
import BlockEngine
import Glibc
import LinuxIO
import SystemPackage
import VhostUserWire
import Virtqueue

/// One region of guest memory, mapped.
final class GuestMapping: Sendable {
    let region: MemoryRegion
    private let mapping: Mapping
    private let guarded: SIGBUSGuard.Range?
    /// Held for the writes that take the guest's bytes from the file.
    private let descriptor: SharedFD
    /// The mapping as a file, if reading the file is the same as reading the memory.
    let file: GuestMemoryFile?

    /// The region as virtqueues know it.
    var guestRegion: GuestRegion {
        unsafe GuestRegion(
            guest: GuestAddress(region.guestAddress), size: region.size, user: region.userAddress,
            host: mapping.pointer + Int(truncatingIfNeeded: region.mmapOffset))
    }

    /// Maps what the front-end described. Refuses a region that is not in a file, or is not wholly inside it.
    init(_ region: MemoryRegion, _ descriptor: SharedFD) throws(Refusal) {
        let fd = descriptor.raw
        var status = stat()
        guard unsafe fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw Refusal("a memory region's descriptor is not a file")
        }
        // Both are 64-bit numbers, and so is their sum: the decoder has checked that.
        let end = region.mmapOffset + region.size
        guard end <= UInt64(clamping: status.st_size) else {
            throw Refusal("a memory region ends behind its file")
        }
        // Huge pages are mapped, and unmapped, whole.
        let page = UInt64(max(4096, Int(status.st_blksize)))
        let (rounded, overflow) = end.addingReportingOverflow(page - 1)
        guard !overflow, page & (page - 1) == 0, let count = Int(exactly: rounded & ~(page - 1)) else {
            throw Refusal("a memory region is too large")
        }
        // From the file's start, because an offset need not be a multiple of a (huge) page.
        do throws(Errno) { mapping = try Mapping(fd: fd, count: count, writable: true) } catch {
            throw Refusal("a memory region cannot be mapped: \(error)")
        }
        self.region = region
        self.descriptor = descriptor
        // Other files that can be mapped may return something else when they are read.
        file =
            unsafe SharedMemory.isMemory(fd)
            ? GuestMemoryFile(start: mapping.pointer, count: count, fd: fd, offset: 0) : nil
        guarded = unsafe SIGBUSGuard.add(mapping.pointer, count: count)
    }

    deinit { if let guarded { SIGBUSGuard.remove(guarded) } }
}

/// Memory of a shared file that is not guest memory: a log, or a record of requests in flight.
final class SharedArea: Sendable {
    let count: Int
    private let mapping: Mapping
    private let start: Int
    private let guarded: SIGBUSGuard.Range?

    var base: UnsafeMutableRawPointer { unsafe mapping.pointer + start }

    /// Maps `size` bytes at `offset` of a file. Refuses an area that is empty, longer than `most`, or not wholly inside
    /// the file.
    init(fd: Int32, offset: UInt64, size: UInt64, most: UInt64) throws(Refusal) {
        var status = stat()
        guard unsafe fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw Refusal("a shared area's descriptor is not a file")
        }
        let (end, overflow) = offset.addingReportingOverflow(size)
        guard !overflow, size > 0, size <= most, end <= UInt64(clamping: status.st_size) else {
            throw Refusal("a shared area of \(size) bytes at \(offset) is empty, too large, or behind its file's end")
        }
        let place = offset & ~4095
        do throws(Errno) {
            mapping = try Mapping(fd: fd, offset: place, count: Int(end - place), writable: true)
        } catch {
            throw Refusal("a shared area cannot be mapped: \(error)")
        }
        start = Int(offset - place)
        count = Int(size)
        guarded = unsafe SIGBUSGuard.add(mapping.pointer, count: Int(end - place))
    }

    deinit { if let guarded { SIGBUSGuard.remove(guarded) } }
}

/// Why a message is refused, although it could be decoded; the connection goes on.
struct Refusal: Error {
    let why: String
    /// The connection ends instead.
    let endsConnection: Bool
    init(_ why: String, endsConnection: Bool = false) {
        self.why = why
        self.endsConnection = endsConnection
    }
}
