# The serving image: an exported bundle over HTTP, without torch.
#
#   docker build -t polyrank-serve .
#   docker run -p 8000:8000 -v "$PWD/runs/first:/bundle:ro" polyrank-serve
FROM python:3.12-slim

WORKDIR /polyrank
# What changes rarely comes first, so that a change of the source does not install it again.
COPY serve-requirements.txt ./
RUN pip install --no-cache-dir -r serve-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps . && useradd --system --no-create-home polyrank

USER polyrank
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# In exec form, so that the server is process 1 and drains on SIGTERM; with the host here, since
# options given to `docker run` replace CMD.
ENTRYPOINT ["polyrank", "serve", "--host", "0.0.0.0"]
CMD ["/bundle"]
