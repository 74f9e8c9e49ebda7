// The two rules of every system call in one place: -1 means look at errno, EINTR means again.
import Glibc
package import SystemPackage

extension Errno {
    /// The error of the call that just failed on this thread.
    package static var last: Errno { Errno(rawValue: Glibc.errno) }
}

/// The result of a call, or its errno as an error.
@discardableResult
package func check<Result: SignedInteger>(_ result: Result) throws(Errno) -> Result {
    if result < 0 { throw .last }
    return result
}

/// Calls again as long as a signal interrupts.
@discardableResult
package func retrying<Result: SignedInteger>(_ call: () -> Result) throws(Errno) -> Result {
    while true {
        let result = call()
        if result >= 0 { return result }
        let error = Errno.last
        if error != .interrupted { throw error }
    }
}

/// `No such file or directory`: the system's words for an error number (also a negative one out of a ring).
public func errorText(_ number: Int32) -> String { unsafe String(cString: strerror(number < 0 ? 0 &- number : number)) }
