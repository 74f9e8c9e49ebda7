// Whether and how a file can be read past the page cache is a matter of kernel, file system and disk; a wrong guess
// makes every request fail. So it is asked, and what was guessed is tried.
import CQblk
import Glibc
import SystemPackage

/// An O_DIRECT descriptor and its rules. The caller closes `fd`.
struct DirectAccess {
    let fd: Int32
    let memory: Int
    let offset: Int

    /// A direct twin of `fd`, or nil where the file has none.
    static func probe(_ fd: Int32, writable: Bool, isBlockDevice: Bool, length: UInt64) -> DirectAccess? {
        // Through /proc, so that it is the same file whatever became of its name meanwhile.
        let twin = unsafe Glibc.open(
            "/proc/self/fd/\(fd)", (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | Int32(QB_O_DIRECT))
        guard twin >= 0 else { return nil }
        if let rules = rules(twin, isBlockDevice: isBlockDevice, length: length) {
            return DirectAccess(fd: twin, memory: rules.memory, offset: rules.offset)
        }
        close(twin)
        return nil
    }

    private static func rules(_ fd: Int32, isBlockDevice: Bool, length: UInt64) -> (memory: Int, offset: Int)? {
        var memory: UInt32 = 0
        var offset: UInt32 = 0
        if unsafe qb_dio_alignment(fd, &memory, &offset) == 1 {
            guard memory > 0, offset > 0 else { return nil }
            return (Int(memory), Int(offset))
        }
        if isBlockDevice {
            var block: Int32 = 0
            guard unsafe ioctl(fd, UInt(QB_BLKSSZGET), &block) == 0, block > 0 else { return nil }
            return (max(512, Int(block)), Int(block))
        }
        // An empty file cannot be tried; a page suits every file system.
        if length == 0 { return (4096, 4096) }
        for guess in [512, 4096] where canRead(fd, unit: guess) { return (guess, guess) }
        return nil
    }

    /// Reads one unit into memory aligned to a unit and no better, at offset 0 and at offset `unit`.
    private static func canRead(_ fd: Int32, unit: Int) -> Bool {
        let memory: AlignedBuffer
        do { memory = try AlignedBuffer(count: unit * 2) } catch { return false }
        let place = unsafe memory.pointer + unit
        return unsafe pread(fd, place, unit, 0) >= 0 && pread(fd, place, unit, off_t(unit)) >= 0
    }
}
