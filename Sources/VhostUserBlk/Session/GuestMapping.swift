// The guest's memory comes as files to map. A region is believed only as far as its file goes, and stays mapped until
// no thread can touch it.
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
    /// Kept for the writes that take the guest's bytes from the file.
    private let descriptor: SharedFD
    /// The mapping as a file, if reading the file is the same as reading the memory.
    let file: GuestMemoryFile?

    /// The region as virtqueues know it.
    var guestRegion: GuestRegion {
        GuestRegion(
            guest: GuestAddress(region.guestAddress), size: region.size, user: region.userAddress,
            host: mapping.pointer + Int(truncatingIfNeeded: region.mmapOffset))
    }

    /// Maps what the front-end described.
    init(_ region: MemoryRegion, _ descriptor: SharedFD) throws(Refusal) {
        let fd = descriptor.raw
        var status = stat()
        guard fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw Refusal("a memory region's descriptor is not a file")
        }
        // Both are 64-bit numbers whose sum is one, too: the decoder saw to it.
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
        // From the file's start: an offset need not be a multiple of a (huge) page.
        do throws(Errno) { mapping = try Mapping(fd: fd, count: count, writable: true) } catch {
            throw Refusal("a memory region cannot be mapped: \(error)")
        }
        self.region = region
        self.descriptor = descriptor
        // What else can be mapped may answer a read in its own way.
        file =
            SharedMemory.isMemory(fd) ? GuestMemoryFile(start: mapping.pointer, count: count, fd: fd, offset: 0) : nil
        guarded = SIGBUSGuard.add(mapping.pointer, count: count)
    }

    deinit { if let guarded { SIGBUSGuard.remove(guarded) } }
}

/// Memory of a shared file that is no guest memory: a log, or a record of requests in flight.
final class SharedArea: Sendable {
    let count: Int
    private let mapping: Mapping
    private let start: Int
    private let guarded: SIGBUSGuard.Range?

    var base: UnsafeMutableRawPointer { mapping.pointer + start }

    init(fd: Int32, offset: UInt64, size: UInt64, most: UInt64) throws(Refusal) {
        var status = stat()
        guard fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
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
        guarded = SIGBUSGuard.add(mapping.pointer, count: Int(end - place))
    }

    deinit { if let guarded { SIGBUSGuard.remove(guarded) } }
}

/// A message that is understood and not obeyed; the connection goes on.
struct Refusal: Error {
    let why: String
    /// There is no going on with this front-end.
    let endsConnection: Bool
    init(_ why: String, endsConnection: Bool = false) {
        self.why = why
        self.endsConnection = endsConnection
    }
}
