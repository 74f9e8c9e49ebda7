// Why this file exists: names out of an image end on terminals and in logs, and a stranger chose them.

/// `name` with control characters, line breaks and invisible format characters (which turn text around) replaced by `?`,
/// and bounded in length.
public func printable(_ name: String) -> String {
    String(String.UnicodeScalarView(name.unicodeScalars.prefix(1024).map { isShown($0) ? $0 : "?" }))
}

private func isShown(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator: false
    default: true
    }
}
