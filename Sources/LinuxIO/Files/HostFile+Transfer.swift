// Plain reads and writes for the control path: headers, tables, offline verbs. Short transfers and interrupted calls
// end here. The data path uses the ring on `fd` and `directFD` instead.
import CQblk
public import DiskTypes
import Glibc
import SystemPackage

extension HostFile {
    /// Fills `buffer` from `offset` on; how many bytes came, fewer only where the file ends.
    public func read(
        at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer
    ) throws(ImageError) -> Int {
        guard let start = off_t(exactly: offset.bytes), let base = buffer.baseAddress else { return 0 }
        var done = 0
        while done < buffer.count {
            let (place, overflow) = start.addingReportingOverflow(off_t(done))
            if overflow { break }
            let got = unsafe pread(fd, base + done, buffer.count - done, place)
            if got == 0 { break }
            if got > 0 {
                done += got
            } else if errno != EINTR {
                throw failed("read", at: offset + UInt64(done))
            }
        }
        return done
    }

    /// Up to `count` bytes at `offset`, as many as the file has there now.
    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        // Sized by what the file has, not by what was asked: the count may come out of a hostile image.
        var known = length
        if offset.bytes.addingReportingOverflow(UInt64(clamping: count)).partialValue > known {
            known = try presentLength()
            grow(to: known)
        }
        guard count > 0, offset.bytes < known else { return [] }
        var bytes = [UInt8](repeating: 0, count: min(count, Int(clamping: known - offset.bytes)))
        let result = unsafe bytes.withUnsafeMutableBytes { memory in
            Result { () throws(ImageError) -> Int in try unsafe read(at: offset, into: memory) }
        }
        bytes.removeSubrange(try result.get()...)
        return bytes
    }

    /// Writes all of `buffer` at `offset`.
    public func write(at offset: HostOffset, from buffer: UnsafeRawBufferPointer) throws(ImageError) {
        guard let base = buffer.baseAddress, buffer.count > 0 else { return }
        let (end, overflow) = offset.bytes.addingReportingOverflow(UInt64(buffer.count))
        guard !overflow, end <= UInt64(Int64.max) else { throw failed("write", EFBIG, at: offset) }
        var done = 0
        while done < buffer.count {
            let put = unsafe pwrite(fd, base + done, buffer.count - done, off_t(offset.bytes) + off_t(done))
            if put > 0 {
                done += put
            } else if put == 0 {
                throw failed("write", ENOSPC, at: offset + UInt64(done))
            } else if errno != EINTR {
                throw failed("write", at: offset + UInt64(done))
            }
        }
        grow(to: end)
    }

    /// Writes all of `bytes` at `offset`.
    public func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError) {
        let result = unsafe bytes.withUnsafeBytes { memory in
            Result { () throws(ImageError) in try unsafe write(at: offset, from: memory) }
        }
        try result.get()
    }

    /// Waits until everything written is on the disk, the length included.
    public func sync() throws(ImageError) {
        while fdatasync(fd) != 0 {
            // Never tried again: after an error the kernel forgets which pages it could not write.
            if errno != EINTR { throw failed("flush") }
        }
    }

    func failed(_ verb: String, _ number: Int32 = Glibc.errno, at offset: HostOffset? = nil) -> ImageError {
        let advice = number == ENOSPC ? "make room on the file system" : nil
        return ImageError(
            .system, "cannot \(verb): \(errorText(number))", at: offset, advice: advice, path: path, number: number)
    }

    /// Takes note that the file has `end` bytes or more.
    public func grow(to end: UInt64) {
        guard !isBlockDevice else { return }
        knownLength.max(end, ordering: .relaxed)
        leastLength.max(end, ordering: .relaxed)
    }
}
